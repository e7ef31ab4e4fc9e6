"""Rows from anywhere to tokenised examples on disk: read, recognise, render, identify, set aside, store."""
