#!/bin/sh
# Copyright The niodoo_exporter Authors
# SPDX-License-Identifier: Apache-2.0
#
# The manual's backup_system.sh [--full | --archive], done by niodooctl. It also
# knows "backup_system.sh restore [NAME]", which the manual calls and never had.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
if [ -z "${NIODOO_CONFIG+set}" ] && [ -f /etc/niodoo/niodoo.yml ]; then
    export NIODOO_CONFIG=/etc/niodoo/niodoo.yml
fi
if [ "$1" = restore ]; then
    shift
    exec niodooctl backup restore "$@"
fi
exec niodooctl backup create "$@"
