"""The correction loop: a page in the browser to draw, see the answer, correct it, and run the whole job."""
