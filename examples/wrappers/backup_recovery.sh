#!/bin/sh
# Copyright The niodoo_exporter Authors
# SPDX-License-Identifier: Apache-2.0
#
# The production guide's backup_recovery.sh {backup | restore PATH}, done by
# niodooctl. A path is that of a backup in backup.directory.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
if [ -z "${NIODOO_CONFIG+set}" ] && [ -f /etc/niodoo/niodoo.yml ]; then
    export NIODOO_CONFIG=/etc/niodoo/niodoo.yml
fi
what=$1
[ $# -gt 0 ] && shift
case $what in
    backup) exec niodooctl backup create "$@" ;;
    restore)
        name=$1
        [ $# -gt 0 ] && shift
        [ -n "$name" ] || { echo "usage: backup_recovery.sh restore PATH" >&2; exit 64; }
        exec niodooctl backup restore "$@" -- "$(basename -- "$name")" ;;
    *)
        echo "usage: backup_recovery.sh {backup | restore PATH}" >&2
        exit 64 ;;
esac
