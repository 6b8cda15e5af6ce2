#!/bin/sh
# Copyright The niodoo_exporter Authors
# SPDX-License-Identifier: Apache-2.0
#
# The manual's health_monitor.sh [--detailed | --summary], done by niodooctl. NIODOO_NOTIFY
# names whom it tells, such as email: notify in the configuration says how. Without
# it, what is printed is for cron to mail.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
if [ -z "${NIODOO_CONFIG+set}" ] && [ -f /etc/niodoo/niodoo.yml ]; then
    export NIODOO_CONFIG=/etc/niodoo/niodoo.yml
fi
exec niodooctl health ${NIODOO_NOTIFY:+--notify="$NIODOO_NOTIFY"} "$@"
