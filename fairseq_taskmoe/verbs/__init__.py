"""The verbs of the `taskmoe` command: modules with add_arguments(parser) and run(args)."""
