"""Steering: what to do about the landscape, on the loss side and on the rate side."""
