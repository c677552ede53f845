#!/bin/sh
# Starts nginx with nchan: start.sh PORT FOLDER, where FOLDER has Debian's packages, unpacked.
set -eu
sed "s/PORT/$1/" "$(dirname "$0")/nchan.conf" >"$2/nchan.conf"
exec "$2/usr/sbin/nginx" -p "$2" -c nchan.conf
