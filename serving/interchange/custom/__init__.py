"""What an export as a custom module of HF transformers takes along; read by that library, never imported here."""
