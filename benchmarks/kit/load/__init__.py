"""A load generator for OpenAI-compatible servers.

outcome    what happened to one request, and what is made of many of them: TTFT, ITL, goodput are defined here
arrivals   when requests start
media      pictures, videos and sounds, made by real encoders and kept between runs
workload   which requests: a seeded mix of texts and media
host       a media host on loopback in its own process, for workloads that send URLs
client     one streamed request over HTTP, timed and judged
probe      `/health`, asked ten times a second on a connection of its own
drive      all of it together, in a process of its own
"""
