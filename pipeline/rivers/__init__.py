"""River networks of a water mask: skeleton, centrelines, widths."""
