"""Loss functions: pure maths over parameter trees."""
