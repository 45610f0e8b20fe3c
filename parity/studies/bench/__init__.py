"""How fast each way of training the network is: `mlp-parity bench`."""
