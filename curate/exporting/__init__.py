"""Parts of an export: columns, layouts for trainers, names, the manifest, the card's text, and the way to the Hub and back."""
