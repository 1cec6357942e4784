"""All that speaks to Redis: connections, scripts, the exchange, the keeper."""
