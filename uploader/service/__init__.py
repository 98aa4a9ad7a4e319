"""Where the parts meet: each verb of the product, written against protocols and handed its parts."""
