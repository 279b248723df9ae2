"""The bytes of one sample, as other tools encode it -> values. Reads nothing, unpickles nothing."""
