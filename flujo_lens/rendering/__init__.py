"""From views to text: columns declared once, every format made from them."""
