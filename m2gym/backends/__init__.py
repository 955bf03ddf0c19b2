"""Where models run: providers through LiteLLM, servers that speak OpenAI's protocol."""
