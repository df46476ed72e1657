"""prometheus-client's parser on the text of /metrics, a JSON string: the type of each family with a help text."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(json.load(sys.stdin)))
assert all(family.documentation for family in families), "a family without help"
json.dump({family.name: family.type for family in families}, sys.stdout)
