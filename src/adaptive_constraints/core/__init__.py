"""The words and base classes that authors of learners and adapters read; nothing here knows what stands above."""
