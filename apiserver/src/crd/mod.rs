//! Custom types: from a CustomResourceDefinition to a served resource.
