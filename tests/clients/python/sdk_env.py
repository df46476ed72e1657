"""dstack-sdk: checks signatures over env keys and encrypts environments, {checks, environments} to {signers, blobs}."""

import asyncio
import json
import sys
import warnings

from dstack_sdk import (
    EnvVar,
    encrypt_env_vars,
    encrypt_env_vars_sync,
    verify_env_encrypt_public_key,
    verify_env_encrypt_public_key_legacy,
)

warnings.simplefilter("ignore", DeprecationWarning)


def signer(check):
    key, signature = bytes.fromhex(check["public_key"]), bytes.fromhex(check["signature"])
    if check["timestamp"] is None:
        return verify_env_encrypt_public_key_legacy(key, signature, check["app_id"])
    options = {} if check["max_age"] is None else {"max_age_seconds": check["max_age"]}
    return verify_env_encrypt_public_key(key, signature, check["app_id"], check["timestamp"], **options)


def blobs(environment):
    variables = [EnvVar(one["key"], one["value"]) for one in environment["env"]]
    key = environment["public_key"]
    return [encrypt_env_vars_sync(variables, key), asyncio.run(encrypt_env_vars(variables, key))]


asked = json.load(sys.stdin)
json.dump(
    {
        "signers": [signer(check) for check in asked["checks"]],
        "blobs": [blobs(environment) for environment in asked["environments"]],
    },
    sys.stdout,
)
