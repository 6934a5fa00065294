"""What the operator looks at: the CoC histogram before confirming, the report page after finishing."""
