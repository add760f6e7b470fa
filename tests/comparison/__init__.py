"""Are comparisons fair, complete and honest?"""
