"""The command line: options in, exit status out; a thin skin over `uploader.api`. Only this part prints."""
