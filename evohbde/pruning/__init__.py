"""How does a trained network get smaller without gradients?"""
