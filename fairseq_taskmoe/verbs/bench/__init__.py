"""The measurements of `taskmoe bench`, one module each: add_arguments(parser) and run(args)."""
