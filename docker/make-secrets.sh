#!/bin/sh
# Make the secrets of compose.secrets.yaml in docker/secrets, unless they are there: a password for Redis, and the rules
# of the user that has it, who may touch specd's keys and do nothing dangerous.
set -eu
cd "$(dirname "$0")"

if [ -e secrets/redis_url ]; then
    echo "docker/secrets is there already" >&2
    exit 0
fi
# Containers read the files as users of their own, so the folder is what keeps others out.
umask 022
mkdir -p secrets
chmod 700 secrets
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
cat > secrets/redis.acl <<ACL
user default on nopass -@all +ping
user specd on >$password ~specd:* resetchannels +@all -@admin -@dangerous +info
ACL
printf 'redis://specd:%s@redis:6379/0\n' "$password" > secrets/redis_url
