"""Seeded synthetic spine CT, written as real DICOM."""
