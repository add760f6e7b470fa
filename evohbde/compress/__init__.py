"""In how few bytes does a network fit, and what does that cost it?"""
