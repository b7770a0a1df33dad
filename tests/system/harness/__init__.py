"""What the whole-system tests stand on: real peers, the line between them, and the relay as a black box."""
