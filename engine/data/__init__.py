"""Images in, augmented batches on the device out; knows no method."""
