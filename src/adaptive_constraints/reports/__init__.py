"""Everything that reads result rows and makes tables, pictures and pages."""
