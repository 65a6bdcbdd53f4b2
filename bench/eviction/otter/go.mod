module github.com/semcached/semcached/bench/eviction/otter

go 1.26.0

replace github.com/semcached/semcached => ../../..

require (
	github.com/maypok86/otter/v2 v2.4.0
	github.com/semcached/semcached v0.0.0-00010101000000-000000000000
)
