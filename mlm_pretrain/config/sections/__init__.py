"""The sections of a config: `text`, `training`, `tasks`, and the small ones with what holds between them in `whole`."""
