"""From what people have to episodes: reading, understanding, splitting and drawing."""
