#!/bin/bash
# The manual's backup_system.sh. Its lines are the manual's, but for where things
# lie, given by NIODOO, and pg_dump, which runs here and not in a container.

BACKUP_DIR="$NIODOO/backups"
DATE=$(date +%Y%m%d_%H%M%S)
BACKUP_PATH="$BACKUP_DIR/$DATE"

mkdir -p "$BACKUP_PATH"

pg_dump -U postgres niodoo > "$BACKUP_PATH/database.sql" || exit 1
tar -czf "$BACKUP_PATH/consciousness_data.tar.gz" "$NIODOO/data" || exit 1
cp -r "$NIODOO/config" "$BACKUP_PATH/" || exit 1
tar -czf "$BACKUP_PATH/logs.tar.gz" "$NIODOO/logs" || exit 1

cat > "$BACKUP_PATH/manifest.txt" << END
Niodoo Consciousness System Backup
=================================
Date: $(date)
Version: $(git rev-parse HEAD)
Database Size: $(du -h "$BACKUP_PATH/database.sql" | cut -f1)
Consciousness Data Size: $(du -h "$BACKUP_PATH/consciousness_data.tar.gz" | cut -f1)
Configuration Size: $(du -h "$BACKUP_PATH/config" | cut -f1)
Logs Size: $(du -h "$BACKUP_PATH/logs.tar.gz" | cut -f1)
Total Size: $(du -h "$BACKUP_PATH" | cut -f1)
END

tar -czf "$BACKUP_DIR/niodoo_backup_$DATE.tar.gz" -C "$BACKUP_DIR" "$DATE" || exit 1
rm -rf "$BACKUP_PATH"
