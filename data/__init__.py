"""Raw modality -> elements -> packed sequences -> global batches."""
