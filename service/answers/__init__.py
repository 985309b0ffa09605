"""From the events of jobs to answers as clients of OpenAI read them."""
