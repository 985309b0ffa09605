"""`specd simulate`: the production policies, scheduler and admission on a virtual clock, from one engine to a fleet."""
