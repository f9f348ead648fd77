"""Video files, and lists of pictures, to the frames that a model will see."""
