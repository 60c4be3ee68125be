"""The verbs of the `taskmoe` command, one module each: add_arguments(parser) and run(args)."""
