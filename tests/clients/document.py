"""The served document and the stored one are valid OpenAPI: document.py URL."""
import json
import pathlib
import sys
import urllib.request

import openapi_spec_validator
import yaml

from shared import ROOT

served = json.load(urllib.request.urlopen(f"{sys.argv[1]}/openapi.json"))
stored = yaml.safe_load((ROOT / "openapi/openapi.yaml").read_text())
for document in [served, stored]:
    openapi_spec_validator.validate(document)
assert served["openapi"].startswith("3.1"), served["openapi"]
# A validator that takes everything would not do.
del served["paths"]["/explain"]["post"]["responses"]["200"]["description"]
try:
    openapi_spec_validator.validate(served)
except openapi_spec_validator.validation.exceptions.OpenAPIValidationError:
    sys.exit()
sys.exit("the validator took a response without a description")
