"""OpenAI's responses: what may be asked, and how answers are spelt."""
