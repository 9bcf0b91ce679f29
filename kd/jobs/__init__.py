"""How each rule makes its product: a path in, a published folder out."""
