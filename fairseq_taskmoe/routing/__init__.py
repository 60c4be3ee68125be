"""Which experts each direction uses: collecting, statistics, tables, figures."""
