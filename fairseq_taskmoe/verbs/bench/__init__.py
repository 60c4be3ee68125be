"""The benchmarks of `taskmoe bench`: modules with add_arguments(parser) and run(args)."""
