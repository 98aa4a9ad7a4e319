"""A repository of a registry as a destination: the only part that speaks HTTP (aiohttp, tenacity live here)."""
