-- The role that niodoo_exporter logs in with. Run it once as a superuser, on
-- the primary, then set the role's password:
--
--     psql -d niodoo -f monitor-role.sql
--     psql -d niodoo -c '\password niodoo_monitor'
--
-- Running it again changes nothing. pg_monitor reads statistics and settings;
-- it reads no table of yours.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'niodoo_monitor') THEN
        CREATE ROLE niodoo_monitor LOGIN;
    END IF;
END
$$;

GRANT pg_monitor TO niodoo_monitor;

-- Each exporter keeps one session and adds one for a moment at every paced
-- login: room for two exporters and one to look around with psql.
ALTER ROLE niodoo_monitor CONNECTION LIMIT 5;

-- PostgreSQL 16 and later can keep slots for such a role (reserved_connections),
-- so that monitoring goes on while the application has taken all the others.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE 'GRANT pg_use_reserved_connections TO niodoo_monitor';
    END IF;
END
$$;
