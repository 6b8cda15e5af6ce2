#!/bin/sh
# Copyright The niodoo_exporter Authors
# SPDX-License-Identifier: Apache-2.0
#
# The manual's incident_response.sh, done by niodooctl.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
if [ -z "${NIODOO_CONFIG+set}" ] && [ -f /etc/niodoo/niodoo.yml ]; then
    export NIODOO_CONFIG=/etc/niodoo/niodoo.yml
fi
exec niodooctl incident open "$@"
