"""How the weights of the toy world are made: its VAE, its two bases, its judge, and the page that measures them."""
