#!/bin/sh
# Makes an authority, Ullage's server certificate and kube-scheduler's client certificate, once, into ./tls.
# Usage: make-certs.sh [NAMESPACE] [DAYS] [FOLDER]
set -eu
namespace=${1:-ullage-system}
days=${2:-3650}
folder=${3:-$(dirname "$0")/tls}
if [ -e "$folder/ca.crt" ]; then
    echo "$folder/ca.crt exists; delete the folder to make new certificates" >&2
    exit 1
fi
umask 077
mkdir -p "$folder"
names="DNS:ullage.$namespace.svc,DNS:ullage.$namespace.svc.cluster.local,DNS:ullage.$namespace,DNS:localhost,IP:127.0.0.1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" -subj "/CN=ullage-ca" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$folder/ca.key" -out "$folder/ca.crt" 2>/dev/null
issue() { # name, subject, extensions
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout "$folder/$1.key" -out "$folder/$1.csr" 2>/dev/null
    printf '%s\n' "$3" > "$folder/$1.ext"
    openssl x509 -req -in "$folder/$1.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial \
        -days "$days" -extfile "$folder/$1.ext" -out "$folder/$1.crt" 2>/dev/null
    rm "$folder/$1.csr" "$folder/$1.ext"
}
common="basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature"
issue server "ullage.$namespace.svc" "$common
extendedKeyUsage=serverAuth
subjectAltName=$names"
issue client "ullage-scheduler" "$common
extendedKeyUsage=clientAuth"
rm -f "$folder/ca.srl"
echo "made $folder/{ca,server,client}.{crt,key}; valid for $days days" >&2
