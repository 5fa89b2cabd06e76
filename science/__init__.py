"""The science: the paper's claims tried on the miniature, and the page that tells what came out (`make science`)."""
