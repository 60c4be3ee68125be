"""Which experts each direction uses: measurement, statistics, tables and figures."""
