"""The adapters for loops that are not asyncio's."""
